"""Hold the file that Python runs at its start if `carbon-plugin run` has put this folder on PYTHONPATH.

Nothing else may be in this folder, because its files could be imported by their bare names.
"""
