"""What a suite will cost, told before it runs: operations, hours, memory, disk, answers and a judge's bill."""
