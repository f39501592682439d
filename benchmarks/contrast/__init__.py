"""A momentum queue beside divide and conquer."""
