"""``python -m robustsnn`` is the command line, where no script is installed or another Python is meant."""

from robustsnn.cli import main

if __name__ == "__main__":
    main()
