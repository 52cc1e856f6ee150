"""Navigation: episodes, scans, metrics of paths, results and agents of R2R and RxR."""
