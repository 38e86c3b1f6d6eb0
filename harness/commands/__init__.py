"""What the commands do, a file each; `prepare` is what run and plan begin with."""
