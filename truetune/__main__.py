"""`python -m truetune` is `ft`."""

from truetune.cli import main

if __name__ == "__main__":
    main()
