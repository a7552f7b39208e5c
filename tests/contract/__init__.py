"""What every method, target and engine must do; a member joins by its line in `METHODS`, `ENGINES` or `TARGETS`.

Which cases run:

- Every method, with every target and every engine, is compared with its scalar map (`test_spectrum.py`), and is a
  value, takes half precision and refuses bad arguments.
- The other properties (invariance, edges, side effects) depend on the code that a call runs, not on coefficients. They
  are tested for one method of each kind of step, with every engine or with one target of each name. The methods that
  run the same code as another one are listed in `cases.SAME_CODE`; a new method is not there, so everything is tested.
- dtypes, scales, shapes and condition numbers are loops inside a test; a failure says in a note where the loop was.
"""
