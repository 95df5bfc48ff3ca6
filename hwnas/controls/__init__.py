"""The networks that a search has to beat: random, as large as the budget allows, made by hand."""
