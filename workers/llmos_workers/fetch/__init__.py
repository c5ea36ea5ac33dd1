"""Inspects and fetches models: `python -m llmos_workers.fetch inspect|fetch`.

main        command line, termination log, exit codes
inspection  facts of a model without its weights        fetching    from a source to a finished folder
selection   which files are wanted                      download    parallel, resumable, verified
sources/    one file per scheme                         volume      what becomes visible, and when
"""
