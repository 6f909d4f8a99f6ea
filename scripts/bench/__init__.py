"""What scripts/bench_peers.py, scripts/bench_families.py and scripts/random_checkpoint.py are made of."""
