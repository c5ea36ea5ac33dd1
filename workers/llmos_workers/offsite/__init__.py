"""What a FineTuneJob keeps in an object store (`checkpoint.storage.uri`), beside its claim or instead of one.

    URI/NAMESPACE/JOB/dataset/                     the prepared dataset, where there is no claim
                     /checkpoints/step-00000200.3/ a checkpoint of step 200 that attempt 3 made
                     /attempts/                    what attempts did, so that lost time is known
                     /tensorboard/
                     /output/                      the result
                     /trials/N/...                 the same of each trial of a search

    remote.py       a folder in a bucket: list, read, put, delete                   I/O
    folders.py      folders that are there completely or not at all                 I/O
    checkpoints.py  which checkpoints are complete, which to go on from, to keep    choices are pure
    restore.py      before an attempt: what is there comes to its volume
    uploading.py    during an attempt: one thread, one upload in flight, the newest wins

An object store has no rename, so the manifest is what makes a folder complete: it is put last and deleted first, and
whoever reads verifies each file by the sha256 that it names. Nothing here needs torch.
"""
