"""The one distinction that the commands make between errors."""


class OptionError(ValueError):
    """A value that the caller chose is not allowed; commands exit with 2 for it, else with 1."""
