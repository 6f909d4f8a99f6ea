"""What scripts/bench_peers.py and scripts/random_checkpoint.py are made of."""
