"""Random programs of loop operations, run on asyncio and on aioloop.

A program is data (``generate.py``), one interpreter of it runs on either loop
(``world.py``), and what it does and sees is a trace, a list of lines. The traces of
both loops are equal. ``modes.py`` says on which loops, ``shrink.py`` makes a program
that differs small, ``python -m tests.fuzz --help`` describes the command line.
"""
