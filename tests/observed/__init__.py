"""The Peaka that people have, row by row, and beside it the one of Peaka's document: the package is right on both."""
