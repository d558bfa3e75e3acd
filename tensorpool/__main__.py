"""`python -m tensorpool`."""

from tensorpool.cli import main

if __name__ == "__main__":
    main()
