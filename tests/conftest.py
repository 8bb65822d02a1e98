import os

# Two files are tested at a time, and most start processes: with a thread for each core in each,
# they would wait for one another. Before anything imports torch, for it asks only then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
