"""``python -m lastblock``: the command line."""

from lastblock.cli import main

if __name__ == "__main__":
    main()
