"""`python -m signal_server`: the same command as `parley`."""

from signal_server.cli.main import main

if __name__ == "__main__":
    main()
