"""What streaming costs, measured: `make bench`, or `python -m bench --help`.

    provider.py   a fake provider that offers tokens faster than any peer takes them, each with the time in it
    load.py       a client of many streams that counts the tokens and reads their times
    peers/        what stands between the two: Sluiceway, nginx, and what tutorials build
    scenarios.py  how many streams, how many tokens, how fast
    rig.py        starts and stops the processes, pins them to cores, reads their CPU clocks and peak memory
    report.py     medians, tables, and the one in README.md
    __main__.py   the command line, and the order of the runs

Standard library only, and Linux only (epoll, /proc). Nothing here is imported by the server.
"""
