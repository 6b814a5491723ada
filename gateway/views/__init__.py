"""What people look at: lists, one thing whole, everything at a glance. Nothing is changed."""
