"""File formats of exported models: one file per format, which writes and opens its files, and the table of them."""
