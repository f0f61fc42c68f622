"""Evaluation: run, judge, aggregate; the gap between random and adversarial perturbation, with statistics."""

from robustsnn.evaluation.benchmark import run_benchmark
from robustsnn.evaluation.config import BenchmarkConfig, ModelConfig, parse_config, read_config
from robustsnn.evaluation.presets import main_job
from robustsnn.evaluation.progress import Progress

__all__ = ["BenchmarkConfig", "ModelConfig", "Progress", "main_job", "parse_config", "read_config", "run_benchmark"]
