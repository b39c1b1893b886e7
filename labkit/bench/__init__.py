"""Side-by-side timings, one file each."""
