"""The rows of the paper: the commands from public files to each number, run or rehearsed."""
