"""Variables and files in, one frozen Settings out. Only ``server/compose.py`` and ``cli`` import this room."""
