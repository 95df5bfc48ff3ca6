"""The backend in C++: binding, memory, and its sources in `src/`."""
