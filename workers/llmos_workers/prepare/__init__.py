"""The dataset gate, `python -m llmos_workers.prepare`: from JSON lines to what a trainer learns, before a GPU is held.

main             command line, log, termination message      preparing      the whole, from sources to manifest
reading          files -> lines                              examples       a line -> an example, or what is wrong
gate             the road of a line, in order                batching       many of them -> tokens; too long ones
personal         personal data                               canonical      when two examples are the same
digests, near    duplicates                                  contamination  what also stands in a suite
templates        conversations -> text, and what is learned  encoding       formats -> pieces of text
tokenizing       text -> tokens and labels                   storing        Arrow files on the claim
splitting, sides what is held out                            tally          what the report says, and whether to go on
labels           which labels there are                      manifest       when all of it is complete

Rule of the house: no text of a dataset ever reaches a log, a status or a message; only positions and kinds of problems.
"""
