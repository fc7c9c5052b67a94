"""Every benchmark, with one command: ``python -m bench.report [--quick] [--out DIR] [--docs]``.

Imports nothing before it has to: the processes that it measures with import this module, too.
"""

if __name__ == "__main__":
    from bench.command import main

    main()
