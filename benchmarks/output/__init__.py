"""What people read: tables and pages made of runs."""
