"""Files that hold named arrays, read as data and never as code: 'a/b/c' -> array.

What a file claims is checked against the bytes that are there before memory is taken for it, and every
file that is damaged, or is something else, is a UserError of one sentence.
"""
