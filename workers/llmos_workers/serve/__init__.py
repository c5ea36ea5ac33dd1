"""PID 1 of a serving pod: starts the engine, tells whether it can answer, drains it, and says why it died."""
