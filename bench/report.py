"""Every benchmark, with one command: ``python -m bench.report [--quick] [--out DIR] [--docs]``.

Imports nothing before it has to, because the measuring processes import this module, too.
"""

if __name__ == "__main__":
    from bench.command import main

    main()
