"""The suite: everything that an implementation is asked, as a plan that a command runs, and as tests that pytest runs.

plan       what is asked, item by item
session    how an item is asked and judged, and where the Results of a run come together
declare    the items of one component as pytest's tests: test_NAME.py here, and in a project that imports them
plugin     fixtures, --implementation and the table at the end of a pytest run
"""
