"""`python -m hyperface` is `hyperface`."""

from hyperface.cli import main

if __name__ == "__main__":
    main()
