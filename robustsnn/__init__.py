"""robustsnn: measure and improve the adversarial robustness of spiking neural networks."""
