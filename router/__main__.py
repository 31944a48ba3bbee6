"""`python -m router` is `switchboard`."""

from router.cli.main import main

main()
