"""Networks on microcontrollers: integer operators, their memory, plain C, and LiteRT files."""
