"""The approximate index of a map: a derived file that can always be made again from the segments.

`choice` says which kind a map gets, `build` makes it, `measure` compares it with exact search, `entry` is what the
manifest says about it, `trial` reads a new file in a child process, `load` opens and checks it, `search` asks it, and
`reindex` does all that to a map.
"""
