"""The backend in Triton. Apart from `layout`, its modules are imported only where it is used."""
