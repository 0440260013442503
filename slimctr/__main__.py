"""`python -m slimctr` is the command line."""

from slimctr.cli import main

if __name__ == "__main__":
    main()
