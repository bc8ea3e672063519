"""``python -m fastdln``: the command line."""

from fastdln.cli import main

if __name__ == "__main__":
    main()
