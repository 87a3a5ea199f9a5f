"""Read what a training job really runs from its live objects. Every value names the object that showed it; nothing is
guessed.
"""
