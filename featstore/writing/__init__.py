"""Write a store: journal, lock, transactions, updates of what is finished."""
