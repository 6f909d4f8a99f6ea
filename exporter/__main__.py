import sys

from exporter.cli.main import main

sys.exit(main(sys.argv[1:]))
