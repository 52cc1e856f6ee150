"""`python -m clipfeat.cli` is the same command."""

from .main import main

if __name__ == "__main__":
    main()
