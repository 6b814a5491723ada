"""A fuzzer on what reads foreign bytes at the door: data sets, associations, multipart bodies; and on the journal's reader.

    python -m tests.fuzz [--seconds 600] [--target scan|pdu|multipart|journal|all] [--seed N] [--keep FOLDER]

Each target is a function `fuzz(data)` that raises only on a defect. atheris (libFuzzer for Python) makes up the data, led by the
code that they reach. Inputs that once failed are kept in found/ and replayed by tests/test_fuzz.py.
"""
