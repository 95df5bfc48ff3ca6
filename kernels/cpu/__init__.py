"""The backend in C++. Its sources are in `src/`; `setup.py` compiles them into `_library`."""
