"""What is really running, read from live objects. Every value names the object that showed it; nothing is guessed."""
