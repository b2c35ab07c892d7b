"""`python -m samtune` is `samtune`."""

from samtune.cli import main

if __name__ == "__main__":
    main()
