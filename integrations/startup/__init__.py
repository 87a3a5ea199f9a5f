"""Hold the file that Python runs at its start where `carbon-plugin run` put this folder on PYTHONPATH.

Nothing else may lie in this folder, because its files could be imported by their bare names.
"""
