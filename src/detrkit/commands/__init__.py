"""The commands of `detrkit`, one file each."""
