"""``python -m trifecta``."""

from trifecta.cli import main

if __name__ == "__main__":
    main()
