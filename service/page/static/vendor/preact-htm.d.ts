/** Types of the vendored file, as far as the page uses it. */
export type VNode = object | string | number | null | undefined | false;
export type Ref<T> = { current: T };
export type StateUpdate<S> = (value: S | ((previous: S) => S)) => void;
export type Cleanup = void | (() => void);

export function html(strings: TemplateStringsArray, ...values: unknown[]): VNode;
export function h(type: unknown, props?: object | null, ...children: unknown[]): VNode;
export function render(tree: VNode, parent: Element): void;
export function createContext<T>(value: T): { Provider: unknown; Consumer: unknown; _default?: T };
export function useState<S>(initial: S | (() => S)): [S, StateUpdate<S>];
export function useReducer<S, A>(reducer: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useEffect(effect: () => Cleanup, inputs?: unknown[]): void;
export function useLayoutEffect(effect: () => Cleanup, inputs?: unknown[]): void;
export function useRef<T>(initial: T): Ref<T>;
export function useMemo<T>(make: () => T, inputs?: unknown[]): T;
export function useCallback<F extends Function>(callback: F, inputs?: unknown[]): F;
export function useContext<T>(context: { _default?: T }): T;
export function useErrorBoundary(callback?: (error: unknown) => void): [unknown, () => void];
