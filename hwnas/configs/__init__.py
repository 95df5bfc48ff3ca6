"""Complete run configurations; `hwnas run NAME` finds them by name."""
